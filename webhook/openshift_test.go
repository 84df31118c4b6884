package webhook

import (
	"strings"
	"testing"
)

func TestUIDRange(t *testing.T) {
	for _, tt := range []struct {
		text        string
		first, last int64 // 0, 0: none
	}{
		{"1000700000/10000", 1000700000, 1000709999},
		{"1000700000-1000709999", 1000700000, 1000709999},
		{"1000/1", 1000, 1000},
		{"0/1000", 0, 999},
		{"2147483647/1", 2147483647, 2147483647},
		{"2147483647/2", 0, 0},
		{"0/1", 0, 0}, // root
		{"1000/0", 0, 0},
		{"2000-1000", 0, 0},
		{"", 0, 0}, {"/", 0, 0}, {"-", 0, 0}, {"1000", 0, 0}, {"a/b", 0, 0}, {"1000/-1", 0, 0}, {"-5/10", 0, 0},
		{" 1000/10", 0, 0}, {"1000/10,2000/10", 0, 0}, {"99999999999999999999/1", 0, 0}, {"1/99999999999999999999", 0, 0},
	} {
		r, ok := parseUIDRange(tt.text)
		if want := tt.last != 0; ok != want || ok && (r.first != tt.first || r.last != tt.last) {
			t.Errorf("%q: %v, %v", tt.text, r, ok)
		}
	}
}

// OpenShift refuses a container whose user is not in its namespace's range.
func TestOpenShift(t *testing.T) {
	for _, tt := range []struct {
		text string
		user int64
	}{{"1000700000/10000", 1000709999}, {"1000/1", 1000}, {"nonsense", proxyUser}} {
		for form, f := range forms() {
			if f.annotations != nil {
				continue // a redirect is refused by OpenShift's restricted-v2 anyhow
			}
			ns := enabled("shop")
			ns.Annotations = map[string]string{annotationUIDRange: tt.text}
			pod, res := injected(t, object{"containers": []any{app()}, "securityContext": object{"fsGroup": 5}}, nil, ns, f.change)
			s := find(t, pod, ProxyContainer).SecurityContext
			if *s.RunAsUser != tt.user || *s.RunAsGroup != tt.user || !*s.RunAsNonRoot {
				t.Errorf("%s, %s: %+v", form, tt.text, s)
			}
			if *pod.Spec.SecurityContext.FSGroup != 5 || pod.Spec.SecurityContext.RunAsUser != nil {
				t.Errorf("%s: the pod's own context is %+v", form, pod.Spec.SecurityContext)
			}
			if warned := strings.Contains(strings.Join(res.Warnings, ""), "no range of users"); warned != (tt.user == proxyUser) {
				t.Errorf("%s, %s: %q", form, tt.text, res.Warnings)
			}
		}
	}
}

// A pod with users of its own has no user beyond 65535.
func TestOpenShiftWithUsersOfItsOwn(t *testing.T) {
	for text, want := range map[string]int64{"1000700000/10000": proxyUser, "1000/1000": 1999} {
		ns := enabled("shop")
		ns.Annotations = map[string]string{annotationUIDRange: text}
		pod, _ := injected(t, object{"containers": []any{app()}, "hostUsers": false}, nil, ns)
		if got := *find(t, pod, ProxyContainer).SecurityContext.RunAsUser; got != want {
			t.Errorf("%s: user %d, want %d", text, got, want)
		}
	}
}
