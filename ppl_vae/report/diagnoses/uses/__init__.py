"""What a model can be used for: classes, contrasts, denoising, compression."""
