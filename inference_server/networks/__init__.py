"""The networks: residual, multilayer perceptron, blobnet, a user's own; and the forms in which they run fastest."""
