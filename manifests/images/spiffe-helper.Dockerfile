# spiffe-helper, and the suite's own programs, which it runs.
ARG BASE
FROM ${BASE}
USER 0:0
COPY spiffe-helper /usr/local/bin/
USER 1000:1000
ENTRYPOINT ["spiffe-helper"]
