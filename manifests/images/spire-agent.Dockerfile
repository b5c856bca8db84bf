# SPIRE's agent, where its own image has it. It attests the processes of others, so it is root.
ARG BASE
FROM ${BASE}
COPY spire-agent /opt/spire/bin/
WORKDIR /opt/spire
ENTRYPOINT ["/opt/spire/bin/spire-agent", "run"]
