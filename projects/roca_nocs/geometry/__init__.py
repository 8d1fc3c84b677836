"""Pure tensor functions; nothing here knows detectron2."""
