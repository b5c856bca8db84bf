# The SPIFFE CSI driver, where its own image has it.
FROM scratch
COPY spiffe-csi-driver /
ENTRYPOINT ["/spiffe-csi-driver"]
