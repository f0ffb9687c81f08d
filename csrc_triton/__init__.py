"""Fused operations, one folder each: tensors in, tensors out; registered as `icd::<op>`."""
