package webhook

import (
	"fmt"
	"slices"
	"strconv"
)

// InjectEphemeral decides about the ephemeral containers that a running pod is given, as by kubectl debug: raw is the
// pod with them, old the pod before. The new ones get the proxy that the pod's containers were given, which its
// annotation tulle.dev/status records and their environment shows, so that what is tried in them goes the way of the
// app. It never denies: whoever debugs has trouble enough.
//
// The error is not nil if raw is no pod. It does no I/O and may be called concurrently.
func InjectEphemeral(old, raw []byte) (Result, error) {
	pod, err := parsePod(raw)
	if err != nil {
		return Result{}, err
	}
	var had []containerView
	if before, err := parsePod(old); err == nil {
		had = before.Spec.Ephemeral
	}
	s, ok := pod.status()
	// Who may annotate a running pod must not choose the proxy of whoever debugs it. Its containers cannot be changed.
	given := func(c containerView) bool { return slices.ContainsFunc(c.Env, s.isProxy) }
	if !ok || s.Version != statusVersion || !slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), given) {
		return Result{Reason: NotMeshed}, nil
	}
	res := Result{Mode: s.Mode, Hash: s.Hash, Reason: InjectedHost}
	if s.Mode == ModeSidecar {
		res.Reason = InjectedSidecar
	}
	want := environment{Needed: references(s.Proxy), Proxy: s.Proxy, Bypass: bypass}
	for _, name := range s.Env {
		if v, ok := fieldOf(name); ok {
			want.Fields = append(want.Fields, v)
		}
	}
	var p patch
	for i, c := range pod.Spec.Ephemeral {
		if slices.ContainsFunc(had, func(h containerView) bool { return h.Name == c.Name }) {
			continue // it runs already, and the API server takes no change of it
		}
		var one patch
		edit := envEdit{patch: &one, path: pointer("spec", "ephemeralContainers", strconv.Itoa(i)), entries: copied(c.Env)}
		out := want.apply(&edit, c, ConflictLeave)
		res.Warnings = append(res.Warnings, out.warnings...)
		if out.denied != nil {
			res.Warnings = append(res.Warnings, "no proxy of the mesh: "+out.denied.Message)
			continue
		}
		p = append(p, one...)
	}
	res.Warnings = bounded(res.Warnings)
	if len(p) == 0 {
		res.Reason = AlreadyInjected
		return res, nil
	}
	if res.Patch, err = p.encode(); err != nil {
		return Result{}, fmt.Errorf("write the patch: %w", err)
	}
	return res, nil
}
