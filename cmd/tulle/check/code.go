package check

// Code names a kind of finding. The list is closed, and docs/check.md has a row for each.
type Code string

// Codes. T90 is the cluster, T91 the webhook, T92 what runs, T93 a pod that was tried, T94 labels and annotations, T95
// the ports of the nodes, T96 certificates, T97 pods.
const (
	OldServer          Code = "T901"
	NoCertManager      Code = "T902"
	NoRight            Code = "T903"
	PodSecurity        Code = "T904"
	NoWebhook          Code = "T911"
	NoCABundle         Code = "T912"
	NoEndpoint         Code = "T913"
	Open               Code = "T914"
	NotInstalled       Code = "T921"
	ControllerDown     Code = "T922"
	OtherVersion       Code = "T923"
	HostDown           Code = "T924"
	NoHost             Code = "T925"
	Slow               Code = "T930"
	Timeout            Code = "T931"
	Refused            Code = "T932"
	LeadsNowhere       Code = "T933"
	NotTrusted         Code = "T934"
	WebhookFailed      Code = "T935"
	Denied             Code = "T936"
	NotInjected        Code = "T937"
	OtherRefusal       Code = "T938"
	NoEffect           Code = "T941"
	WouldBeDenied      Code = "T942"
	WrongNamespace     Code = "T943"
	TwoMeshes          Code = "T944"
	NotJoined          Code = "T945"
	AdminSilent        Code = "T951"
	PortSilent         Code = "T952"
	NameUnknown        Code = "T953"
	NobodyThere        Code = "T954"
	WayBarred          Code = "T955"
	Foreign            Code = "T956"
	CertificateUnready Code = "T961"
	CertificateEnds    Code = "T962"
	Escaped            Code = "T971"
	Stale              Code = "T972"
)

// Codes returns all codes, in order.
func Codes() []Code {
	return []Code{OldServer, NoCertManager, NoRight, PodSecurity, NoWebhook, NoCABundle, NoEndpoint, Open,
		NotInstalled, ControllerDown, OtherVersion, HostDown, NoHost,
		Slow, Timeout, Refused, LeadsNowhere, NotTrusted, WebhookFailed, Denied, NotInjected, OtherRefusal,
		NoEffect, WouldBeDenied, WrongNamespace, TwoMeshes, NotJoined, AdminSilent, PortSilent,
		NameUnknown, NobodyThere, WayBarred, Foreign,
		CertificateUnready, CertificateEnds, Escaped, Stale}
}
