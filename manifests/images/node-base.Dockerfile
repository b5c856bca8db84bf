# A machine for kind, with Kubernetes, and no images in it yet.
ARG BASE
FROM ${BASE}
COPY bin/ /usr/bin/
COPY files/ /
RUN mkdir -p /etc/kubernetes/manifests \
    && chmod 755 /usr/local/bin/entrypoint /usr/local/lib/svidproof/* \
    && systemctl enable containerd.service kubelet.service pod-network.path \
    # Of no use in a container, or against the machine that it runs on.
    && systemctl mask getty.target systemd-binfmt.service systemd-logind.service systemd-udevd.service \
        systemd-tmpfiles-setup.service systemd-update-utmp.service apt-daily.timer
# systemd looks for it, and stops at this signal: https://systemd.io/CONTAINER_INTERFACE
ENV container=docker
STOPSIGNAL SIGRTMIN+3
ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]
