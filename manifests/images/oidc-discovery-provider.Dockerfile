# SPIRE's OIDC discovery provider, and the suite's own programs, beside which it runs.
ARG BASE
FROM ${BASE}
USER 0:0
COPY oidc-discovery-provider /opt/spire/bin/
USER 1000:1000
ENTRYPOINT ["/opt/spire/bin/oidc-discovery-provider"]
