# Its pod gives arguments only.
FROM scratch
COPY program/ /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/coredns"]
