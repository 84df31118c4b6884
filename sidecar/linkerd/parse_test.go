package linkerd_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/sidecar/linkerd"
)

// Who gives a namerd.yaml to the proxy is told which program it is for.
func TestWordsOfNamerd(t *testing.T) {
	_, err := linkerd.Parse("f", []byte("storage: {kind: io.l5d.inMemory}\ninterfaces: []"))
	want := "f:1: storage is not known here: it is of a namerd.yaml, which tulle-namer runs\n" +
		"f:2: interfaces is not known here: it is of a namerd.yaml, which tulle-namer runs"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// All addresses of a port are taken by one that listens at all of them.
func TestServerConflict(t *testing.T) {
	for text, want := range map[string]string{
		"routers: [{protocol: http, servers: [{ip: 0.0.0.0}, {port: 4141}, {}]}]":             "f:1: routers[0].servers[2]: Server conflict on port 4140: routers[0].servers[0] listens at 0.0.0.0:4140",
		"routers: [{protocol: http, servers: [{ip: '::', port: 9990}]}]":                      "f:1: routers[0].servers[0]: Server conflict on port 9990: admin listens at 127.0.0.1:9990",
		"routers: [{protocol: http, servers: [{}, {ip: 127.0.0.2}, {port: 0}, {port: 0}]}]":   "",
		"admin: {port: 0}\nrouters: [{protocol: http, servers: [{port: 0}, {ip: 10.0.0.1}]}]": "",
	} {
		switch _, err := linkerd.Parse("f", []byte(text)); {
		case err == nil && want != "", err != nil && err.Error() != want:
			t.Errorf("%s\n got %v\nwant %s", text, err, want)
		}
	}
}
