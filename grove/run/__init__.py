"""One run on disk: its folder, its lock, its settings, presets and summary."""
