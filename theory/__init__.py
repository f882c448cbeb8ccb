"""The claims about SeqLoRA as objects that can fail: bounds, energies, checks, and the layers they run on."""
