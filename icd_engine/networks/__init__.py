"""UNet, VAE and text encoder as plain modules: no files, no time steps."""
