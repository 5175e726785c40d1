// A handler function: what it returns is the output, its error is the error.
// The package alyx is in the image; an error of type *alyx.Error carries a code of its own.
package function

import (
	"fmt"

	"alyx"
)

type input struct {
	Name string `json:"name"`
}

// Handler greets the caller.
func Handler(ctx *alyx.Context) (any, error) {
	in := input{Name: "World"}
	if err := ctx.Bind(&in); err != nil {
		return nil, &alyx.Error{Code: "VALIDATION_ERROR", Message: err.Error()}
	}
	ctx.Log.Info("greeting", map[string]any{"name": in.Name})
	caller := "anonymous"
	if ctx.Auth != nil {
		caller = ctx.Auth.Email
	}
	return map[string]any{
		"message": fmt.Sprintf("Hello, %s! (from a Go handler)", in.Name),
		"caller":  caller,
	}, nil
}
