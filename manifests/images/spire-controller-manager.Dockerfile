# SPIRE controller manager, where its own image has it; it is static, and asks for no other file.
FROM scratch
COPY spire-controller-manager /
ENTRYPOINT ["/spire-controller-manager"]
