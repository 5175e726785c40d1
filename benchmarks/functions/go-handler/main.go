package function

import "alyx"

func Handler(ctx *alyx.Context) (any, error) { return ctx.Input, nil }
