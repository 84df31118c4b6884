package naming_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/naming"
)

func TestReplicasJSON(t *testing.T) {
	r := naming.Of(
		naming.Endpoint{Address: "10.0.0.2:80", Node: "n1", Hop: naming.HopSidecar, Via: "10.0.0.2:4141", Identity: "spiffe://cluster.local/ns/a/sa/b", Weight: 1},
		naming.Endpoint{Address: "10.0.0.1:80", Weight: 2},
		naming.Endpoint{Address: "10.0.0.2:80", Weight: 3},
	)
	const want = `{"state":"bound","endpoints":[` +
		`{"address":"10.0.0.1:80","hop":"none","weight":2},` +
		`{"address":"10.0.0.2:80","node":"n1","hop":"sidecar","via":"10.0.0.2:4141","identity":"spiffe://cluster.local/ns/a/sa/b","weight":1}]}`
	got, err := json.Marshal(r)
	if err != nil || string(got) != want {
		t.Fatalf("got %s, %v\nwant %s", got, err, want)
	}
	var back naming.Replicas
	if err := json.Unmarshal(got, &back); err != nil || !back.Equal(r) {
		t.Fatalf("read back %+v, %v", back, err)
	}
	for _, s := range []naming.Replicas{{}, {State: naming.StateBound}, {State: naming.StateFailed, Cause: "x"}, naming.Of(r.Endpoints[:1]...)} {
		if s.Equal(r) || r.Equal(s) {
			t.Errorf("%+v is equal to %+v", s, r)
		}
	}
	for _, bad := range []string{`{"state":"gone"}`, `{"state":"bound","endpoints":[{"hop":"far"}]}`} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil || !strings.Contains(err.Error(), "want one of") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestBoundJSON(t *testing.T) {
	b := naming.Bound{ID: naming.Path{"#", "a b"}, Residual: nil}
	got, err := json.Marshal(b)
	if want := `{"id":"/#/\\x61\\x20\\x62","residual":"/"}`; err != nil || string(got) != want {
		t.Fatalf("got %s, %v; want %s", got, err, want)
	}
	var back naming.Bound
	if err := json.Unmarshal(got, &back); err != nil || !reflect.DeepEqual(back, b) {
		t.Fatalf("read back %+v, %v", back, err)
	}
}
