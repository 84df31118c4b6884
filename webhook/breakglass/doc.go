// Package breakglass opens the injector for a while, so that pods of namespaces that are enabled start without the mesh
// while the injector does not answer, and closes it again.
//
// All there is of it is in MutatingWebhookConfiguration tulle-injector: the failurePolicy of the entry
// inject.tulle.dev, and annotations that say who opened it, since when, until when, why, and which policy comes back.
// So it needs no controller to be opened, and any controller that lives closes it at its time, even if none did when it
// was opened. The package does not decide who may: that is the right to patch the configuration.
//
// Invariants: it is open for [Longest] at most, counted from the last time that it was opened. It owns no field of the
// configuration, so an upgrade with Helm or kubectl meets no conflict; it brings back the policy, which closes it.
//
//	state, err := breakglass.Open(ctx, client, breakglass.Request{By: user, Reason: "INC-7", For: 15 * time.Minute})
//	state, err = breakglass.Close(ctx, client)
//	err = breakglass.NewKeeper(…).Run(ctx) // closes it at its time
package breakglass
