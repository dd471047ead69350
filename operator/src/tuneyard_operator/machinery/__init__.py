"""Controller machinery for any kind: client, informers, cache, work queue, reconciler, leader election."""
