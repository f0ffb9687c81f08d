"""The engine as a service: pictures of many people, edited by replicas of one model."""
