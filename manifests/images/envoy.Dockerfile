# Envoy, where its own image has it.
ARG BASE
FROM ${BASE}
COPY envoy /usr/local/bin/
USER 101:101
ENTRYPOINT ["/usr/local/bin/envoy"]
CMD ["-c", "/etc/envoy/envoy.yaml"]
