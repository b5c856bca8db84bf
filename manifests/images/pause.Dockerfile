# What holds a pod's namespaces: catatonit has a mode for just that.
ARG BASE
FROM ${BASE} AS node
FROM scratch
COPY --from=node /usr/bin/catatonit /pause
ENTRYPOINT ["/pause", "-P"]
