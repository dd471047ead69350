from tuneyard_cluster.cli import main

raise SystemExit(main())
