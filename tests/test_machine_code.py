"""Instructions are counted on the way that a loop normally takes, without the loops inside it."""

from __future__ import annotations

from tests.machine_code import COPIES, EXPONENTIALS, PRODUCTS, SPILLS, kernels, loops, pair_loop

SASS = """\
	.section	.text.pairs,"ax",@progbits
.text.pairs:
        /*0000*/                   S2R R21, SR_TID.X ;
.L_x_0:
        /*0010*/                   LDGSTS.E.128 [R1], desc[UR8][R12.64] ;
.L_x_1:
        /*0020*/                   HMMA.16816.F32.BF16 R4, R8, R2, R4 ;
        /*0030*/                   IADD3 R0, R0, 0x10, RZ ;
        /*0040*/               @P0 BRA `(.L_x_1) ;
        /*0050*/               @P1 BRA `(.L_x_2) ;
        /*0060*/                   MUFU.EX2 R4, R4 ;
        /*0070*/                   NOP ;
        /*0080*/                   BRA `(.L_x_3) ;
.L_x_2:
        /*0090*/                   ISETP.LT.AND P2, PT, R0, R1, PT ;
        /*00a0*/                   FSEL R4, R4, RZ, P2 ;
        /*00b0*/                   MUFU.EX2 R4, R4 ;
.L_x_3:
        /*00c0*/                   STL [R1], R4 ;
        /*00d0*/               @P2 BRA `(.L_x_0) ;
        /*00e0*/                   EXIT ;
.L_x_4:
        /*00f0*/                   BRA `(.L_x_4);
	.section	.text.straight,"ax",@progbits
.text.straight:
        /*0000*/                   MUFU.EX2 R4, R4 ;
        /*0010*/              @!P0 EXIT ;
        /*0020*/                   MUFU.EX2 R5, R5 ;
        /*0030*/                   EXIT ;
"""

AMD = """\
pairs:                                  ; @pairs
	s_load_dword s0, s[4:5], 0x0
.LBB0_1:                                ; =>This Inner Loop Header
	v_exp_f32_e32 v0, v0
	s_waitcnt vmcnt(0)
	v_add_f32_e32 v1, v0, v1
	s_cbranch_scc0 .LBB0_1
	s_endpgm
	.end_amdhsa_kernel
"""


def test_a_loop_counts_its_normal_way_without_what_is_inside_it():
    loop = pair_loop(kernels(SASS)["pairs"])
    assert loop.path == {"LDGSTS.E.128": 1, "BRA": 3, "MUFU.EX2": 1, "STL": 1}
    assert [loop.count(names) for names in (EXPONENTIALS, PRODUCTS, COPIES, SPILLS)] == [1, 0, 1, 1]
    (inside,) = loop.nested
    assert (inside.instructions, inside.count(PRODUCTS)) == (3, 1)


def test_code_without_a_loop_counts_whole():
    loop = pair_loop(kernels(SASS)["straight"])
    assert loop.instructions == 4
    assert loop.count(EXPONENTIALS) == 2


def test_waiting_is_no_loop():
    assert len(loops(pair_loop(kernels(SASS)["pairs"]).blocks)) == 2


def test_an_assembler_of_amd_is_read():
    ((name, text),) = kernels(AMD).items()
    loop = pair_loop(text)
    assert (name, loop.instructions, loop.count(EXPONENTIALS)) == ("pairs", 3, 1)
