<<<<<<< HEAD
"""The engine as a service: pictures of many people, edited by replicas of one model."""
=======
"""The engine for many: manifests of pictures edited by workers on one machine or a cluster."""
>>>>>>> main
