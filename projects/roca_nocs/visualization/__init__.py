"""What the demo writes of an image: pictures, a 3D scene, and the numbers."""
