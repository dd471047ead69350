"""The build of the images: what each consists of, its content-hash tag, and the docker calls. Standard library only."""
