package webhook

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// annotationUIDRange is written by OpenShift on each namespace: the users that its pods may run as, as
// first/length or first-last. Its security context constraint restricted-v2 (MustRunAsRange) refuses all others.
const annotationUIDRange = "openshift.io/sa.scc.uid-range"

// Users of the sidecar where the cluster does not say which there are.
const (
	// proxyUser is the user of the image.
	proxyUser = 65532
	// redirectUser is that of a sidecar whose own connections a redirect knows by their user, beside a mark that the
	// app might set as well. It is another one, because 65532 is also the user of many images of apps, which do
	// not say so in their pods.
	redirectUser = 41404
)

// uidRange is the users from first to last.
type uidRange struct{ first, last int64 }

// NamespaceAnnotations returns the annotations of a namespace that the injector reads.
func NamespaceAnnotations() []string { return []string{annotationUIDRange} }

// maxUser is the last user that there is in a pod with users of its own (hostUsers: false). OpenShift gives those pods
// ordinary users, by restricted-v3, whatever the namespace says.
const maxUser = 65535

// parseUIDRange reads the value of OpenShift's annotation.
func parseUIDRange(text string) (uidRange, bool) {
	first, rest, length := strings.Cut(text, "/")
	if !length {
		var ok bool
		if first, rest, ok = strings.Cut(text, "-"); !ok {
			return uidRange{}, false
		}
	}
	a, err := strconv.ParseUint(first, 10, 31)
	if err != nil {
		return uidRange{}, false
	}
	b, err := strconv.ParseUint(rest, 10, 32)
	if err != nil {
		return uidRange{}, false
	}
	r := uidRange{int64(a), int64(b)}
	if length {
		r.last += r.first - 1
	}
	return r, r.last >= r.first && r.last <= math.MaxInt32 && r.last > 0
}

// proxyUserOf returns the user and group of the sidecar: one of the namespace's own, if it says which those are.
//
// That is the last one of the range. The first is given by OpenShift to every container that names none, so with it
// the app could signal the proxy and read its memory, and a redirect could not tell one from the other; the next few
// are what people take who need a second one. What no cluster would write is a warning and means nothing: without
// OpenShift nobody reads it, and with it the pod is refused by OpenShift itself.
func proxyUserOf(pod podView, ns Namespace, capture string) (user int64, warnings []string) {
	user = proxyUser
	if capture == CaptureRedirect {
		user = redirectUser
	}
	text, ok := ns.Annotations[annotationUIDRange]
	if !ok {
		return user, nil
	}
	r, ok := parseUIDRange(text)
	if !ok {
		return user, []string{fmt.Sprintf("namespace %s has the annotation %s with %q, which is no range of users like 1000700000/10000; the sidecar runs as user %d",
			ns.Name, annotationUIDRange, text, user)}
	}
	if pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers && r.last > maxUser {
		return user, nil
	}
	return r.last, nil
}

// firstUserOf returns the user that OpenShift gives to containers that name none.
func firstUserOf(ns Namespace) (int64, bool) {
	r, ok := parseUIDRange(ns.Annotations[annotationUIDRange])
	return r.first, ok
}
