"""The ground floor: errors, strict configs, artefact folders, seeds, devices. Imports nothing of dougong above it."""
