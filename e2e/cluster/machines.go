package cluster

import (
	"crypto/rand"
	"fmt"

	"github.com/tulle-mesh/tulle/e2e/cluster/machine"
)

// cpName is the control plane's machine.
const cpName = "cp"

// The gates that hold daemons back, by what must be true first.
const (
	gateNetwork = "network" // the machine's wire is laid
	gateServer  = "server"  // the same, and nobody wants the API server away
	gateAPI     = "api"     // the API server answers; its port alone is open too early
	gateImages  = "images"  // and, on a node, the sandbox image is there
)

// controlPlane describes the machine of etcd, the API server, the controllers and the scheduler.
func controlPlane(dir stateDir, bin binaries) *machine.Spec {
	const etcd = "http://127.0.0.1:2379" // in the machine's own network namespace, so plain and open
	daemon := func(name, gate string, args ...string) machine.Daemon {
		return newDaemon(dir, bin, cpName, name, gate, args...)
	}
	kubeconfigs := func(user string) []string {
		file := dir.kubeconfig(user)
		return []string{"--kubeconfig=" + file, "--authentication-kubeconfig=" + file, "--authorization-kubeconfig=" + file}
	}
	return &machine.Spec{
		Name:    cpName,
		Disk:    dir.disk(cpName),
		Files:   map[string]string{"/etc/resolv.conf": ""},
		Binds:   []machine.Bind{{From: "etcd", To: "/var/lib/etcd"}},
		Sysctls: map[string]string{"net/ipv4/ip_forward": "1"},
		Daemons: []machine.Daemon{
			daemon("etcd", gateNetwork,
				"--data-dir=/var/lib/etcd/data",
				"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
				"--listen-peer-urls=http://127.0.0.1:2380",
				"--unsafe-no-fsync"), // a cluster that is thrown away may lose its last writes to a power cut
			daemon("kube-apiserver", gateServer, apiServerFlags(dir, etcd)...),
			daemon("kube-controller-manager", gateAPI, append(kubeconfigs("system:kube-controller-manager"),
				"--use-service-account-credentials",
				"--service-account-private-key-file="+dir.pki("service-accounts.key"),
				"--root-ca-file="+dir.pki("ca.crt"),
				"--cluster-cidr="+podNet.String(),
				"--allocate-node-cidrs=false", // each node's range is fixed; Up writes it down
				"--leader-elect=false",
				"--kube-api-qps=300", "--kube-api-burst=600")...),
			daemon("kube-scheduler", gateAPI, append(kubeconfigs("system:kube-scheduler"),
				"--leader-elect=false",
				"--kube-api-qps=300", "--kube-api-burst=600")...),
		},
	}
}

func apiServerFlags(dir stateDir, etcd string) []string {
	return []string{
		"--etcd-servers=" + etcd,
		"--advertise-address=" + cpAddr.String(),
		fmt.Sprintf("--secure-port=%d", apiPort),
		"--service-cluster-ip-range=" + serviceNet.String(),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		// There is no kube-proxy on the control plane: webhooks are dialled by pod address.
		"--enable-aggregator-routing=true",
		"--kubelet-preferred-address-types=InternalIP",
		"--client-ca-file=" + dir.pki("ca.crt"),
		"--tls-cert-file=" + dir.pki("apiserver.crt"),
		"--tls-private-key-file=" + dir.pki("apiserver.key"),
		"--kubelet-certificate-authority=" + dir.pki("ca.crt"),
		"--kubelet-client-certificate=" + dir.pki("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + dir.pki("apiserver-kubelet-client.key"),
		"--requestheader-client-ca-file=" + dir.pki("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + dir.pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + dir.pki("front-proxy-client.key"),
		"--service-account-issuer=https://kubernetes.default.svc." + clusterDomain,
		"--service-account-key-file=" + dir.pki("service-accounts.key"),
		"--service-account-signing-key-file=" + dir.pki("service-accounts.key"),
	}
}

// worker describes the machine of one node.
func worker(dir stateDir, bin binaries, n Node) (*machine.Spec, error) {
	data := newConfigData(dir, bin, n)
	files := map[string]string{"/etc/resolv.conf": ""}
	for path, config := range map[string]string{
		"/etc/containerd/config.toml":     "containerd.toml",
		"/etc/cni/net.d/10-pods.conflist": "cni.conflist",
		"/etc/kubernetes/kubelet.yaml":    "kubelet.yaml",
		"/etc/kubernetes/kube-proxy.yaml": "kube-proxy.yaml",
	} {
		text, err := data.render(config)
		if err != nil {
			return nil, err
		}
		files[path] = text
	}
	daemon := func(name, gate string, args ...string) machine.Daemon {
		return newDaemon(dir, bin, n.Name, name, gate, args...)
	}
	return &machine.Spec{
		Name:  n.Name,
		Disk:  dir.disk(n.Name),
		Files: files,
		Binds: []machine.Bind{
			{From: "containerd", To: "/var/lib/containerd"},
			{From: "kubelet", To: "/var/lib/kubelet"},
			{From: podLogsBind, To: "/var/log/pods"},
		},
		Sysctls: map[string]string{
			"net/ipv4/ip_forward": "1",
			// Two pods of one node share a bridge; their answers must pass kube-proxy's rules all the same.
			"net/bridge/bridge-nf-call-iptables": "1",
		},
		Masks: map[string]string{
			// What the kubelet insists on.
			"vm/overcommit_memory": "1",
			"vm/panic_on_oom":      "0",
			"kernel/panic":         "10",
			"kernel/panic_on_oops": "1",
			// A boot is known by its id: a node that is started again has rebooted.
			"kernel/random/boot_id": newBootID(),
		},
		Daemons: []machine.Daemon{
			daemon("containerd", "", "--config=/etc/containerd/config.toml"),
			daemon("kubelet", gateImages,
				"--config=/etc/kubernetes/kubelet.yaml",
				"--kubeconfig="+dir.kubeconfig(kubeletUser(n).Name),
				"--hostname-override="+n.Name,
				"--node-ip="+n.IP.String()),
			daemon("kube-proxy", gateAPI, "--config=/etc/kubernetes/kube-proxy.yaml"),
		},
	}, nil
}

func newDaemon(dir stateDir, bin binaries, machineName, name, gate string, args ...string) machine.Daemon {
	d := machine.Daemon{Name: name, Path: bin.path(name), Args: args, Env: bin.env(), Log: dir.log(machineName, name)}
	if gate != "" {
		d.After = dir.gate(machineName, gate)
	}
	return d
}

// newBootID returns a random UUID in the kernel's form.
func newBootID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
