package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"os"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

func TestPKI(t *testing.T) {
	dir := stateDir(t.TempDir())
	if err := writePKI(dir, netip.AddrPortFrom(cpAddr, apiPort)); err != nil {
		t.Fatal(err)
	}
	ca, frontProxy := readCert(t, dir, "ca"), readCert(t, dir, "front-proxy-ca")

	for file, id := range servers() {
		cert := readCert(t, dir, file)
		verify(t, cert, ca, true)
		verify(t, cert, frontProxy, false)
		for _, host := range id.Hosts {
			if err := cert.VerifyHostname(host); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
		if _, err := tls.LoadX509KeyPair(dir.pki(file+".crt"), dir.pki(file+".key")); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	// Were the front proxy's client of the cluster's CA, any client could say who a request is from.
	verify(t, readCert(t, dir, "front-proxy-client"), frontProxy, true)
	verify(t, readCert(t, dir, "front-proxy-client"), ca, false)

	for _, file := range []string{"ca.key", "front-proxy-ca.key"} {
		if _, err := os.Stat(dir.pki(file)); err == nil {
			t.Errorf("%s is on disk; nothing signs after Up", file)
		}
	}
	if info, err := os.Stat(dir.pki("service-accounts.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("service-accounts.key: %v, %v; want it for root only", info, err)
	}
}

func TestKubeconfigs(t *testing.T) {
	dir := stateDir(t.TempDir())
	if err := writePKI(dir, netip.AddrPortFrom(cpAddr, apiPort)); err != nil {
		t.Fatal(err)
	}
	ca := readCert(t, dir, "ca")
	for _, user := range append([]identity{kubeletUser(nodes[0]), kubeletUser(nodes[1])}, users...) {
		config, err := clientcmd.BuildConfigFromFlags("", dir.kubeconfig(user.Name))
		if err != nil {
			t.Fatal(err)
		}
		if config.Host != "https://172.30.0.1:6443" {
			t.Errorf("%s connects to %s", user.Name, config.Host)
		}
		cert := parseCert(t, config.CertData)
		verify(t, cert, ca, true)
		if cert.Subject.CommonName != user.Name || len(cert.Subject.Organization) != len(user.Groups) {
			t.Errorf("certificate of %s is for %s", user.Name, cert.Subject)
		}
	}
	if len(users) != 4 {
		t.Errorf("writing kubeconfigs changed the list of users: %v", users)
	}
}

func verify(t *testing.T, cert, ca *x509.Certificate, want bool) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	_, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if (err == nil) != want {
		t.Errorf("%s verified by %s: %v, want success %v", cert.Subject, ca.Subject, err, want)
	}
}

func readCert(t *testing.T, dir stateDir, file string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(dir.pki(file + ".crt"))
	if err != nil {
		t.Fatal(err)
	}
	return parseCert(t, data)
}

func parseCert(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("no PEM in %q", data)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
