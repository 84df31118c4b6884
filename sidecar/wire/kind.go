package wire

// Kind tells the fields that a proxy acts upon from all others. A codec finds it
// once per field, so that nobody else has to compare names.
type Kind uint8

// The kinds, in groups that the methods of Kind tell apart.
const (
	KindOther Kind = iota // a field the proxy only hands on

	// Fields that concern one connection (RFC 9110, section 7.6.1).
	KindListed // by a Connection field of the same head
	KindConnection
	KindKeepAlive
	KindProxyConnection
	KindProxyAuthenticate
	KindProxyAuthorization
	KindTE
	KindTrailer
	KindTransferEncoding
	KindUpgrade
	KindHTTP2Settings

	// Fields that a proxy writes anew or adds to.
	KindHost
	KindContentLength
	KindExpect
	KindVia
	KindMaxForwards
	KindForwarded
	KindB3         // any x-b3-…
	KindClientCert // x-forwarded-client-cert

	// Linkerd 1.x's fields.
	KindDtab         // l5d-dtab
	KindCtxDtab      // l5d-ctx-dtab
	KindCtxDeadline  // l5d-ctx-deadline
	KindCtxTrace     // l5d-ctx-trace
	KindCtxOther     // any other l5d-ctx-…
	KindDst          // any l5d-dst-… but the next two
	KindDstService   // l5d-dst-service
	KindDstClient    // l5d-dst-client
	KindRequestID    // l5d-reqid
	KindSample       // l5d-sample
	KindErr          // l5d-err
	KindSuccessClass // l5d-success-class
	KindRetryable    // l5d-retryable
	KindL5d          // any other l5d-…

	// Tulle's own.
	KindCode     // tulle-code
	KindEndpoint // tulle-dst-endpoint
	KindTulle    // any other tulle-…

	kinds // how many there are
)

// Header keeps a bit for each.
var _ [64 - kinds]struct{}

// Hop reports whether a field concerns one connection only and so is never
// handed on.
func (k Kind) Hop() bool { return KindListed <= k && k <= KindHTTP2Settings }

// L5d reports whether the name begins with l5d-.
func (k Kind) L5d() bool { return KindDtab <= k && k <= KindL5d }

// Tulle reports whether the name begins with tulle-.
func (k Kind) Tulle() bool { return KindCode <= k && k <= KindTulle }

// KindOf returns the kind of a field called name, which must be in lower case.
// It never returns KindListed, which is not a matter of the name.
func KindOf(name []byte) Kind {
	switch string(name) {
	case "connection":
		return KindConnection
	case "keep-alive":
		return KindKeepAlive
	case "proxy-connection":
		return KindProxyConnection
	case "proxy-authenticate":
		return KindProxyAuthenticate
	case "proxy-authorization":
		return KindProxyAuthorization
	case "te":
		return KindTE
	case "trailer":
		return KindTrailer
	case "transfer-encoding":
		return KindTransferEncoding
	case "upgrade":
		return KindUpgrade
	case "http2-settings":
		return KindHTTP2Settings
	case "host":
		return KindHost
	case "content-length":
		return KindContentLength
	case "expect":
		return KindExpect
	case "via":
		return KindVia
	case "max-forwards":
		return KindMaxForwards
	case "forwarded":
		return KindForwarded
	case "x-forwarded-client-cert":
		return KindClientCert
	case "tulle-code":
		return KindCode
	case "tulle-dst-endpoint":
		return KindEndpoint
	}
	switch {
	case len(name) >= 4 && string(name[:4]) == "l5d-":
		return l5dKind(name[4:])
	case len(name) >= 6 && string(name[:6]) == "tulle-":
		return KindTulle
	case len(name) >= 5 && string(name[:5]) == "x-b3-":
		return KindB3
	}
	return KindOther
}

func l5dKind(name []byte) Kind {
	switch string(name) {
	case "dtab":
		return KindDtab
	case "ctx-dtab":
		return KindCtxDtab
	case "ctx-deadline":
		return KindCtxDeadline
	case "ctx-trace":
		return KindCtxTrace
	case "dst-service":
		return KindDstService
	case "dst-client":
		return KindDstClient
	case "reqid":
		return KindRequestID
	case "sample":
		return KindSample
	case "err":
		return KindErr
	case "success-class":
		return KindSuccessClass
	case "retryable":
		return KindRetryable
	}
	switch {
	case len(name) > 4 && string(name[:4]) == "ctx-":
		return KindCtxOther
	case len(name) > 4 && string(name[:4]) == "dst-":
		return KindDst
	}
	return KindL5d
}
