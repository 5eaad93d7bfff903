"""Where and how it is computed: device, files, the hub, argument checks, the gradient step."""
