# It writes its rules with the iptables of the base.
ARG BASE
FROM ${BASE}
COPY program/ /usr/local/bin/
