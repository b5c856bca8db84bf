# Distribution's registry, started as its own image starts it.
FROM scratch
COPY registry /bin/
COPY files/ /etc/distribution/
# It would look for a collector of traces.
ENV OTEL_TRACES_EXPORTER=none
ENTRYPOINT ["/bin/registry"]
CMD ["serve", "/etc/distribution/config.yml"]
