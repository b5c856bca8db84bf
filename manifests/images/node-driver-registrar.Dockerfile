# What tells the kubelet of a CSI driver, where its own image has it.
FROM scratch
COPY node-driver-registrar /csi-node-driver-registrar
ENTRYPOINT ["/csi-node-driver-registrar"]
