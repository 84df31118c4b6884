package webhook

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// checkCapture says what is wrong with the annotations about capture: tulle.dev/capture, skip-ports and
// opaque-ports. It is asked in both modes. The second result holds warnings.
func checkCapture(pod podView, mode Mode) (*Result, []string) {
	value, ok := pod.annotation(AnnotationCapture)
	if ok && value != CaptureEnv && value != CaptureRedirect {
		return denial(InvalidAnnotation, fmt.Sprintf("the pod's annotation %s is %q, allowed: %s, %s", AnnotationCapture, value, CaptureEnv, CaptureRedirect),
			"correct it, or remove it for the default, "+CaptureEnv), nil
	}
	if value == CaptureRedirect && mode == ModeHost {
		return denial(InvalidAnnotation, fmt.Sprintf("the pod's annotation %s is %s, which needs a proxy in the pod, but its mode is %s", AnnotationCapture, value, mode),
			fmt.Sprintf("annotate it with %s: %s, or remove %s", AnnotationMode, ModeSidecar, AnnotationCapture)), nil
	}
	var warnings []string
	for _, key := range []string{AnnotationSkipPorts, AnnotationOpaquePorts} {
		text, ok := pod.annotation(key)
		if !ok {
			continue
		}
		set, err := parsePorts(text, pod.portsNamed)
		if err == nil && len(set) > maxRuns {
			err = fmt.Errorf("there are %d ranges, more than %d", len(set), maxRuns)
		}
		if err != nil {
			return denial(InvalidAnnotation, fmt.Sprintf("the pod's annotation %s is %q, in which %v; allowed: numbers from 1 to 65535, ranges like 9000-9100, and names of the pod's ports, separated by commas", key, text, err),
				"correct it, or remove it"), nil
		}
		if value != CaptureRedirect {
			warnings = append(warnings, fmt.Sprintf("the pod's annotation %s has no effect without %s: %s", key, AnnotationCapture, CaptureRedirect))
		}
	}
	return nil, warnings
}

// capture is how the sidecar gets what the app sends.
type capture struct {
	kind         string // CaptureEnv or CaptureRedirect
	skip, opaque portSet
}

// captureOf reads the pod's annotations, which checkCapture has passed.
func captureOf(pod podView) capture {
	if v, _ := pod.annotation(AnnotationCapture); v != CaptureRedirect {
		return capture{kind: CaptureEnv}
	}
	c := capture{kind: CaptureRedirect}
	for key, set := range map[string]*portSet{AnnotationSkipPorts: &c.skip, AnnotationOpaquePorts: &c.opaque} {
		if text, ok := pod.annotation(key); ok {
			*set, _ = parsePorts(text, pod.portsNamed)
		}
	}
	return c
}

// portsNamed returns the ports of the pod's containers that have this name. Each container has its own names, so there
// may be several.
func (p podView) portsNamed(name string) []int {
	var ports []int
	for _, list := range [][]containerView{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range list {
			if c.ours() {
				continue
			}
			for _, port := range c.Ports {
				if port.Name == name && port.ContainerPort > 0 && port.ContainerPort <= maxPort {
					ports = append(ports, port.ContainerPort)
				}
			}
		}
	}
	return ports
}

// maxRuns is how many ranges a redirect can have beside the one it has of its own: the kernel holds each new connection
// against all of them.
const maxRuns = 255

// portSet is a set of ports: runs that are sorted, and have gaps between them.
type portSet []portRun

// portRun is the ports from first to last.
type portRun struct{ first, last int }

// parsePorts reads a list of numbers, ranges and names, separated by commas. named returns the ports of a name.
func parsePorts(text string, named func(string) []int) (portSet, error) {
	var runs []portRun
	for element := range strings.SplitSeq(text, ",") {
		element = strings.TrimSpace(element)
		first, last, isRange := strings.Cut(element, "-")
		switch {
		case element == "":
			return nil, fmt.Errorf("an element is empty")
		case !strings.ContainsFunc(element, func(r rune) bool { return r != '-' && (r < '0' || r > '9') }): // no name: those have a letter
			if !isRange {
				last = first
			}
			run, err := parseRun(first, last)
			if err != nil {
				return nil, err
			}
			runs = append(runs, run)
		default:
			ports := named(element)
			if len(ports) == 0 {
				return nil, fmt.Errorf("%q is neither a number, nor a range, nor the name of a port of the pod", element)
			}
			for _, p := range ports {
				runs = append(runs, portRun{p, p})
			}
		}
	}
	// By number: as text, 10000 would come before 80.
	slices.SortFunc(runs, func(a, b portRun) int { return a.first - b.first })
	var set portSet
	for _, r := range runs {
		if n := len(set); n > 0 && r.first <= set[n-1].last+1 {
			set[n-1].last = max(set[n-1].last, r.last)
			continue
		}
		set = append(set, r)
	}
	return set, nil
}

func parseRun(first, last string) (portRun, error) {
	var ends [2]int
	for i, text := range []string{first, last} {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxPort {
			return portRun{}, fmt.Errorf("%q is no port", text)
		}
		ends[i] = n
	}
	if ends[0] > ends[1] {
		return portRun{}, fmt.Errorf("the range %s-%s ends before it begins", first, last)
	}
	return portRun{ends[0], ends[1]}, nil
}

// String writes the set as it is read.
func (s portSet) String() string {
	var b strings.Builder
	for i, r := range s {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(r.first))
		if r.last > r.first {
			b.WriteByte('-')
			b.WriteString(strconv.Itoa(r.last))
		}
	}
	return b.String()
}

// labelEnforce is the label of a namespace by which Pod Security refuses pods.
const labelEnforce = "pod-security.kubernetes.io/enforce"

// judgeRedirect says why a pod cannot have a redirect whose sidecar runs as user.
func judgeRedirect(pod podView, ns Namespace, user int64) *Result {
	remedy := fmt.Sprintf("leave the annotation %s out, so that the app is told of the proxy by its environment", AnnotationCapture)
	if level := ns.Labels[labelEnforce]; level == "baseline" || level == "restricted" {
		return denial(PodSecurity, fmt.Sprintf("the pod's annotation %s is %s, which needs an init container with NET_ADMIN, but namespace %s enforces the Pod Security level %s, which forbids that", AnnotationCapture, CaptureRedirect, ns.Name, level), remedy)
	}
	for _, list := range [][]containerView{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			if c.ours() || pod.userOf(c, ns) != user {
				continue
			}
			return denial(UIDTaken, fmt.Sprintf("container %q runs as user %d, which is the sidecar's: a redirect lets a connection of that user pass by the mesh if it looks like the proxy's own", c.Name, user),
				"give the container another runAsUser, or "+remedy)
		}
	}
	return nil
}

// userOf returns the user of a container as far as the pod and its namespace tell, else -1.
func (p podView) userOf(c containerView, ns Namespace) int64 {
	for _, s := range []*userView{c.SecurityContext, p.Spec.SecurityContext} {
		if s != nil && s.RunAsUser != nil {
			return *s.RunAsUser
		}
	}
	if user, ok := firstUserOf(ns); ok {
		return user
	}
	return -1
}

// redirectContainer is the init container that leads the app's connections to the proxy. It is the one thing of Tulle's
// in a pod that has a privilege: NET_ADMIN, over the pod's own network, which only root can use. It ends at once.
func redirectContainer(c Config, p ports, user int64, how capture, resources corev1.ResourceRequirements) corev1.Container {
	args := []string{"redirect", "--outgoing-port=" + strconv.Itoa(p.Outgoing), "--proxy-uid=" + strconv.FormatInt(user, 10)}
	if len(how.skip) > 0 {
		args = append(args, "--skip-ports="+how.skip.String())
	}
	if len(how.opaque) > 0 {
		args = append(args, "--opaque-ports="+how.opaque.String())
	}
	return corev1.Container{
		Name:            RedirectContainer,
		Image:           c.ProxyImage,
		ImagePullPolicy: corev1.PullPolicy(c.PullPolicy),
		Args:            args,
		Resources:       resources,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_ADMIN"}},
			Privileged:               new(false),
			ReadOnlyRootFilesystem:   new(true),
			RunAsNonRoot:             new(false),
			RunAsUser:                new(int64(0)),
			RunAsGroup:               new(int64(0)),
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		// It talks to nobody, so what the API server would mount there is not for it either.
		VolumeMounts: []corev1.VolumeMount{{Name: tokenVolume, MountPath: apiTokenDir, ReadOnly: true}},
	}
}
