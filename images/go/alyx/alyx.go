// Package alyx serves a function's handler in the Alyx sandbox.
//
//	package function
//
//	import "alyx"
//
//	func Handler(ctx *alyx.Context) (any, error) {
//		return map[string]any{"message": "Hello, " + ctx.Input["name"].(string)}, nil
//	}
//
// The sandbox adds the main function; a program that has its own calls Serve.
package alyx

import "encoding/json"

// Context is one request, and what surrounds it.
type Context struct {
	Input         map[string]any
	Auth          *Auth // nil for an anonymous call
	Env           map[string]string
	RequestID     string
	Function      string
	AlyxURL       string
	InternalToken string
	Log           Logger

	input json.RawMessage
}

// Auth says who calls the function.
type Auth struct {
	ID       string         `json:"id"`
	Email    string         `json:"email"`
	Role     string         `json:"role"`
	Verified bool           `json:"verified"`
	Metadata map[string]any `json:"metadata"`
}

// Bind decodes the input into a value of the handler's own type, as json.Unmarshal does.
func (c *Context) Bind(target any) error {
	return json.Unmarshal(c.input, target)
}

// Error is an error with a code of the function's own. Any other error of a handler is answered
// with the code FUNCTION_ERROR.
type Error struct {
	Code    string
	Message string
	Details map[string]any
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }
