# Debian, as mmdebstrap unpacks it.
FROM scratch
ADD rootfs.tar /
CMD ["/bin/bash"]
