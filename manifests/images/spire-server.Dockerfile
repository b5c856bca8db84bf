# SPIRE's server, where its own image has it.
ARG BASE
FROM ${BASE}
COPY spire-server /opt/spire/bin/
WORKDIR /opt/spire
USER 1000:1000
ENTRYPOINT ["/opt/spire/bin/spire-server", "run"]
