"""Examinations that ship with the contracts: hold your own store or backend against them."""
