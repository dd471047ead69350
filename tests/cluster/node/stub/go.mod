module tuneyard.dev/cluster/stub
