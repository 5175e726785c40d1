module alyx

go 1.24
