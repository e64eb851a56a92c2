"""The kernels and files of a Jupyter server behind the proxy, reached with the token of whoever asks."""
