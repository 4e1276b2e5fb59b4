"""What training steps are made of: losses, augmentation, optimizers, means over clips."""
