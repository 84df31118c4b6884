// Package drift finds the pods that are not as the injector would have them: those that escaped it, because it was away
// or was not asked, and those that it would inject differently today.
//
// It asks the injector itself, [webhook.Inject], about each pod that runs in a namespace of the mesh, and keeps the
// answer alone. It tells what it found in metrics and in events on the workloads; and if it is told to, it evicts or
// restarts them, one workload at a time. It is no admission webhook and decides nothing about a pod that is being made.
//
// Invariants: a namespace that has not joined gets no event and no metric. A pod without a controller, and one that
// would be refused if it were made again, are only told of. Nothing is done while [Config.Hold] has a reason, nor twice
// for the same cause if once has not helped.
//
//	c, err := drift.New(drift.Config{Client: client, Injector: config, Escaped: drift.Evict, Hold: hold, …})
//	err = c.Run(ctx) // at one replica at a time, by a Lease
//
//	pods, err := drift.List(ctx, client, config) // once, for a command line
package drift
