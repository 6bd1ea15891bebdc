"""What a configuration may hold: recipes and presets by name, options, hardware, one line per error."""
