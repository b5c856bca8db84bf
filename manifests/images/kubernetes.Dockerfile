# One static program; the pods that kubeadm and kind write find it by its name.
FROM scratch
COPY program/ /usr/local/bin/
ENV PATH=/usr/local/bin
