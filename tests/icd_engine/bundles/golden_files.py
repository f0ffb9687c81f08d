"""Names of the published files, as the golden folder has them."""

UNET = "diffusion_pytorch_model.safetensors"
FORWARD, REVERSE, TEACHER = (
    "iCD-SD15-forward.safetensors",
    "iCD-SD15-reverse.safetensors",
    "sd15_cfg_distill.pt",
)
