# The node with the images that every cluster runs, already unpacked.
ARG BASE
FROM ${BASE}
ADD store.tar /kind/
