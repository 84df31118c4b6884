// Package serving is what the webhook needs to be reached by API servers: a certificate of its own that they trust, and
// a probe that tries once a minute whether they still reach it.
//
// [Certificate] makes both CA and certificate by cert-manager's DynamicAuthority and DynamicSource, which need a Secret
// and no cert-manager, and writes the CA into the caBundle of each entry of the webhook configurations. [Probe] has the
// API server make a pod that is never stored. Neither knows what an admission review is, and neither listens: the
// certificate is for a tls.Config of somebody else.
//
// Invariant: what a replica serves is signed by an authority that has been in every entry's bundle for longer than API
// servers take to hear of it, and an authority stays there for as long as anything that it signed is good. So neither a
// new certificate nor a new CA fails an admission. (The exceptions: a replica that has no certificate yet, which is not
// ready, and one that would run out.)
//
//	c, err := serving.New(serving.Config{REST: config, Client: client, Namespace: "tulle", Secret: "tulle-webhook-ca",
//		DNSNames: []string{"tulle-controller.tulle.svc"}, Configurations: []string{"tulle-injector"}, …})
//	go c.Run(ctx)
//	server.TLSConfig = &tls.Config{GetCertificate: c.GetCertificate}
//
// The design is in docs/design/injector-certificates.md.
package serving
