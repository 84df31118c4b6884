package cluster

import (
	"embed"
	"fmt"
	"net/netip"
	"strings"
	"text/template"
)

//go:embed config
var configFS embed.FS

// configTemplates are the files of config; each is rendered with a configData.
var configTemplates = template.Must(template.New("").Option("missingkey=error").ParseFS(configFS, "config/*"))

// configData is what the templates may ask for.
type configData struct {
	Node          Node   // the zero Node for what is not of one node
	PKI           string // directory
	Bin           string // directory of the programs, the same path on the nodes as on the host
	ClusterName   string
	ClusterDomain string
	DNS           netip.Addr
	PodNet        netip.Prefix
	PauseImage    string
	CertManager   []certManagerPart
}

// certManagerPart is one of cert-manager's Deployments.
type certManagerPart struct {
	Name    string
	Command string // of our certmanager binary
	Port    int    // zero if it serves nothing
}

var certManagerParts = []certManagerPart{
	{Name: "cert-manager", Command: "controller"},
	{Name: "cert-manager-cainjector", Command: "cainjector"},
	{Name: "cert-manager-webhook", Command: "webhook", Port: 10250},
}

func newConfigData(dir stateDir, bin binaries, n Node) configData {
	return configData{
		Node:          n,
		PKI:           dir.pki(""),
		Bin:           bin.dir,
		ClusterName:   clusterName,
		ClusterDomain: clusterDomain,
		DNS:           dnsService,
		PodNet:        podNet,
		PauseImage:    pauseImage,
		CertManager:   certManagerParts,
	}
}

// render renders one file of config.
func (d configData) render(file string) (string, error) {
	var out strings.Builder
	if err := configTemplates.ExecuteTemplate(&out, file, d); err != nil {
		return "", fmt.Errorf("render %s: %w", file, err)
	}
	return out.String(), nil
}
